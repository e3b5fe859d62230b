"""The names of before; `moesim.contract` is the one import."""

from moesim.contract import *  # noqa: F403
