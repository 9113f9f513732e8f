"""Records kept with claims: the last is the one on record, and the documentation shows them all."""

import pytest

from residual_theory.claims.claim import Claim
from residual_theory.claims.registry import claims_in
from residual_theory.commands.listing import histories
from residual_theory.loading import find_root

ROOT = find_root(None)
KEPT = [claim for claim in claims_in(ROOT) if claim.history]


@pytest.mark.parametrize("claim", KEPT, ids=lambda claim: claim.key)
def test_the_last_record_is_the_one_that_the_claim_has(claim: Claim) -> None:
    dates = [record.date for record in claim.history]
    assert dates == sorted(dates)
    assert claim.history[-1].verdict == claim.recorded


def test_the_documentation_shows_what_list_prints() -> None:
    assert histories(KEPT) in (ROOT / "docs" / "rates.md").read_text()
