"""``fedquad verify``: a few stored records computed again and compared."""

from __future__ import annotations

import json as json_module
from typing import Annotated

from cyclopts import Parameter

from fedquad.cli.options import print_json


def verify(
    *,
    profile: str = "reference",
    sample: int = 3,
    seed: int | None = None,
    workers: int = 2,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Compute a few stored records again, drawn at random, and compare.

    On the kind of CPU that a record was made on the results must be the same
    bytes; elsewhere the accuracy must lie within what two test sets of that
    size would differ by. Exit status 1 if a record differs.

    Parameters
    ----------
    profile
        Whose records in data/runs/PROFILE are drawn.
    sample
        How many; all of them if there are fewer.
    seed
        Of the draw; another one each time if it is not given.
    workers
        Processes that fine-tune side by side.
    json
        Print a JSON list instead of a table.
    """
    from fedquad.config import get_profile
    from fedquad.verify import verify as recompute

    table = recompute(get_profile(profile), sample, seed, workers=workers)
    if json:
        print_json(json_module.loads(table.to_json(orient="records")))
    else:
        print(table.drop(columns="detail").to_string(index=False, na_rep=""))
        for row in table.itertuples():
            print(f"{row.run}: {row.verdict}, {row.detail}")
    return int((table["verdict"] == "differs").any())
