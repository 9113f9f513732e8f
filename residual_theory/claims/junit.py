"""A run as JUnit XML, which continuous-integration services show test by test."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from residual_theory.claims.files import Refusal
from residual_theory.claims.outcome import Outcome

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 has no way to write these


def junit(preset: str, outcomes: Sequence[Outcome], refused: Sequence[Refusal] = ()) -> bytes:
    """One test case for each claim and level.

    A verdict other than the one on record, and a check without the power to refute its twin, is a failure; what is
    undecided is skipped; what was refused is an error.
    """
    suite = ElementTree.Element("testsuite", name=f"residual-theory {preset}")
    for outcome in outcomes:
        _add(suite, outcome)
    for refusal in refused:
        name, _, level = refusal.claim.rpartition("/")
        case = ElementTree.SubElement(suite, "testcase", classname=name or refusal.file, name=level or "CLAIMS")
        ElementTree.SubElement(case, "error", type="refused", message=str(refusal))
    for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(plural, str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite)))
    suite.set("time", f"{sum(outcome.seconds for outcome in outcomes):.3f}")
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    for element in suites.iter():
        element.text = element.text and _NOT_XML.sub("\ufffd", element.text)
        for name, value in element.attrib.items():
            element.set(name, _NOT_XML.sub("\ufffd", value))
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add(suite: ElementTree.Element, outcome: Outcome) -> None:
    claim = outcome.claim
    seconds = f"{outcome.seconds:.3f}"
    case = ElementTree.SubElement(suite, "testcase", classname=claim.id, name=claim.level, time=seconds)
    if outcome.undecided:
        ElementTree.SubElement(case, "skipped", type="inconclusive", message=str(outcome))
    elif not outcome.as_recorded:
        kind = "powerless" if outcome.verdict == claim.recorded else outcome.verdict
        ElementTree.SubElement(case, "failure", type=kind, message=str(outcome))
    ElementTree.SubElement(case, "system-out").text = f"{claim.statement}\n{outcome!s}"
