"""How well `predict` and `simulate` agree with the independent simulator of tests/independent, as docs/agreement.csv.

python -m benchmarks.agreement        48 random stacks, about ten minutes on one core
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from tests.independent.agreement import bound, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/agreement.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = pd.DataFrame(table(given.stacks, given.seed))
    rows.round({"largest_deviation": 2, "median_relative_error": 4}).to_csv(given.out, index=False)
    for against, part in rows.groupby("against"):
        print(f"{against}: {part.comparisons.sum()} comparisons, largest {part.largest_deviation.max():.2f}")  # noqa: T201
    print(f"bound of the whole family: {bound(int(rows.comparisons.sum())):.2f} standard errors")  # noqa: T201


if __name__ == "__main__":
    main()
