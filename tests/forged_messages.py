"""Messages that no encoder writes."""

from tokenbounds.files import write_bytes
from tokenbounds.messages.container import parse_message, render_message


def write_message(path, header, parts):
    """Write a message with any header and parts, and return it as a reader sees it."""
    data = render_message(header, parts)
    write_bytes(path, data)
    return parse_message(data)
