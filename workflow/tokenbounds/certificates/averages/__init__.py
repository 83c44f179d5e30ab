"""Averages of losses over score files, in one pass and constant memory."""
