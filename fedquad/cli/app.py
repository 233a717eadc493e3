"""The application that the commands hang on, and how it ends when one of them fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cyclopts

import fedquad
from fedquad.cli.bench import bench
from fedquad.cli.claims import claims
from fedquad.cli.compare import compare
from fedquad.cli.doctor import doctor
from fedquad.cli.finetune import finetune
from fedquad.cli.gallery import gallery
from fedquad.cli.memory import memory
from fedquad.cli.plan import plan
from fedquad.cli.pretrain import pretrain
from fedquad.cli.reproduce import reproduce
from fedquad.cli.run import run
from fedquad.cli.tune import check_tasks, tune
from fedquad.cli.verify import verify
from fedquad.config import InputError
from fedquad.notebook_runner import NotebookError
from fedquad.runs.journal import StoreError

app = cyclopts.App(
    name="fedquad",
    help="LoRA depth and activation quantization for federated fine-tuning, by experiment.",
    version=fedquad.__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` says what is kept
)
COMMANDS = (
    reproduce,
    claims,
    gallery,
    finetune,
    run,
    compare,
    memory,
    plan,
    doctor,
    verify,
    bench,
    pretrain,
    tune,
    check_tasks,
)
for command in COMMANDS:
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of ``sys.argv[1:]``.

    Notes
    -----
    Exit status: 0 when all went well, 1 when a check came out negative, 2
    when the input or the machine does not allow what was asked (one line on
    stderr says why), 130 after Ctrl-C.
    """
    try:
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except KeyboardInterrupt:
        print("fedquad: interrupted; finished runs and checkpoints are kept", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        print(f"fedquad: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status or 0)


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors that explain themselves; anything else is a defect and keeps its traceback."""
    expected = [cyclopts.CycloptsError, InputError, StoreError, NotebookError, OSError]
    # These modules load torch: looked up only if the command has loaded them already.
    late = {"fedquad.runs.pool": "WorkerError", "fedquad.training.local": "DivergenceError"}
    expected += [
        getattr(sys.modules[module], name) for module, name in late.items() if module in sys.modules
    ]
    return tuple(expected)
