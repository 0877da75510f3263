"""Commands as arms: `cmd:COMMAND` starts a program that speaks the worker protocol."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

from srbench.errors import UsageError

PREFIX = "cmd:"
_NO_LABEL = re.compile(r"[^A-Za-z0-9_-]+")


def is_command(pipeline: str) -> bool:
    """Whether a pipeline's name is a command instead."""
    return pipeline.startswith(PREFIX)


def split_arms(text: str, where: str) -> list[str]:
    """Arms out of a list; a comma in quotation marks or after a backslash is part of an arm.

    Args:
        text: Of the list.
        where: The option, for errors.

    Raises:
        UsageError: A quotation mark is not closed.
    """
    arms, quote, skip = [""], "", False
    for letter in text:
        if letter == "," and not quote and not skip:
            arms.append("")
            continue
        arms[-1] += letter
        if skip:
            skip = False
        elif letter == "\\" and quote != "'":
            skip = True
        elif letter in ("'", '"') and quote in ("", letter):
            quote = "" if quote else letter
    if quote:
        raise UsageError(f"{where} '{text}': a quotation mark ({quote}) is not closed")
    return [arm.strip() for arm in arms if arm.strip()]


def command_words(pipeline: str) -> tuple[str, ...]:
    """Program and arguments of `cmd:COMMAND`, split as a shell does.

    A command that is quoted as a whole is split too, unless it is the path of a program with
    spaces in it.

    Raises:
        UsageError: There is none, or a quotation mark is not closed.
    """
    text = pipeline.removeprefix(PREFIX)
    try:
        words = shlex.split(text)
        if len(words) == 1 and not Path(words[0]).expanduser().exists():
            words = shlex.split(words[0])
    except ValueError as error:
        raise UsageError(f"--pipelines '{pipeline}': {str(error).lower()}") from error
    if not words:
        raise UsageError(
            f"--pipelines '{pipeline}': names no program after '{PREFIX}', as in "
            f'{PREFIX}"/path/to/python -m adapter"'
        )
    return tuple(words)


def command_name(words: tuple[str, ...]) -> str:
    """A plain name for a command without a label: its module, its script, else its program."""
    module = dict(pairwise(words)).get("-m", "").rpartition(".")[2]
    script = next((Path(word).stem for word in words if word.endswith(".py")), "")
    name = module or script or Path(words[0]).name
    return _NO_LABEL.sub("-", name).strip("-_") or "engine"
