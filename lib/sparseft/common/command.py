"""Make a command line of a script's main function, and report every error as one line.

The flags are the parameters of the function: their types, their defaults, and their lines under `Args:` in its
docstring. A parameter of type `Flags[Section]` gives one flag per key of that section of the configuration:

    def main(*, model_path: Path, output_dir: Path, training: Flags[Training] = DEFAULTS, plot: bool = False) -> int:

An error is `error: WHAT IS WRONG (value, place); WHAT TO DO` on stderr with exit code 2. SPARSEFT_DEBUG=1 prints the
traceback of every error above that line. The rules of the workflow set SPARSEFT_LOG_TRACEBACKS=1, because the stderr of
their scripts is a log. The log gets every traceback except those of an InputError and of a full disk, which the user
can correct.
"""

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token
from cyclopts.validators import Number
from pydantic import ValidationError

from sparseft.common.errors import InputError, end, one_line
from sparseft.common.section import first_fault

T = TypeVar("T")
# The main function of a script returns its exit code; None is 0.
Main = Callable[..., int | None]
# A parameter whose fields are flags of their own.
Flags = Annotated[T, Parameter(name="*")]
# A number of CPU threads.
Threads = Annotated[int, Parameter(validator=Number(gte=1, lte=1024))]


def _folder(_: object, tokens: Sequence[Token]) -> Path:
    """Return the folder that one word of a command line names."""
    path = Path(tokens[0].value)
    return path.parent if path.name == "manifest.json" else path


# A folder, which its manifest.json may name.
Folder = Annotated[Path, Parameter(converter=_folder)]


def run(main: Main) -> NoReturn:
    """Call `main` with the arguments of the command line, and end the program. A wrong command line is an error too."""
    end(lambda: parse(main, sys.argv[1:]))


def parse(main: Main, words: list[str]) -> Main:
    """Return `main` with the arguments that the words of a command line give. Raises InputError if they do not fit."""
    app = command_line(main)
    try:
        command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        raise InputError(_what(error), f"{app.name[0]} --help lists the flags") from error
    return partial(command, *bound.args, **bound.kwargs)


def command_line(main: Main) -> App:
    """Return the command line of a script's main function. The docstring of the script is its description."""
    name = Path(main.__code__.co_filename).name
    app = App(
        name=name,
        help=main.__globals__["__doc__"],
        help_format="plaintext",
        version_flags=(),
        # The parameters are flags of the same names. A list takes all values up to the next flag, and a yes/no question
        # takes none.
        default_parameter=Parameter(name_transform=str, consume_multiple=True, negative=()),
        config=_check_whole_numbers,
    )
    app.default(main)
    return app


def _check_whole_numbers(app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise InputError if a flag of whole numbers has another one, which cyclopts would round."""
    # A flag that takes a number or a word has a Literal.
    whole = [argument for argument in arguments if re.search(r"\bint\b(?!.*Literal)", str(argument.hint))]
    for name, value in ((argument.name, token.value) for argument in whole for token in argument.tokens):
        if not re.fullmatch(r"[+-]?\d+", value):
            raise InputError(f"{name} {value}: not a whole number", f"{app.name[0]} --help lists the flags")


def _what(error: CycloptsError) -> str:
    """Return what is wrong with a command line."""
    if isinstance(error.__cause__, ValidationError):
        # A fault of several flags together has no place of its own.
        place = "--" if error.__cause__.errors()[0]["loc"] else ""
        return f"{place}{first_fault(error.__cause__)}"
    return one_line(error).removesuffix(".")
