"""What every job of the workflow needs around its one library call: a log, a thread limit, and errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenbounds import __version__
from tokenbounds.errors import TokenboundsError

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def job(log: Path | str, threads: int = 1) -> Iterator[logging.Logger]:
    """Run a block of code as a job: everything it logs, warnings and errors included, goes to the file `log`.

    Parameters
    ----------
    log
        Log file; replaced if it exists.
    threads
        Limit on the threads of torch in this process, and of numerical libraries in its children.

    Raises
    ------
    SystemExit
        With status 1 after a `TokenboundsError`, whose message goes to the log and, as one line, to standard error.
        Other exceptions are logged with their traceback and raised.
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    _limit_threads(threads)
    logger = logging.getLogger("tokenbounds")
    logger.info("%s starts: tokenbounds %s, threads: %d", path.stem, __version__, threads)
    begun = time.monotonic()
    try:
        yield logger
        logger.info("done in %.1f s", time.monotonic() - begun)
    except TokenboundsError as error:
        logger.error("%s", error)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception:
        logger.exception("the job failed unexpectedly")
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def _limit_threads(threads: int) -> None:
    """Limit torch if the job has loaded it; the variables reach only processes that start later."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
