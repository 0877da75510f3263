"""A judgement as JUnit XML: one testcase a check, read by every CI system."""

from __future__ import annotations

from xml.etree import ElementTree

from srbench.gate.checks import Check, Judgement, Verdict


def junit_xml(judgement: Judgement) -> str:
    """Render the judgement: fail is a failure, an open question skipped, a broken cell an error.

    Where the policy fails open questions they are failures here too: CI systems count those alone.
    The text is the same for the same judgement; it holds no time.
    """
    checks = judgement.checks
    kinds = [_kind(check, judgement.on_inconclusive) for check in checks]
    suite = ElementTree.Element(
        "testsuite",
        name="srbench gate",
        tests=str(len(checks)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped=str(kinds.count("skipped")),
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "run": judgement.run_id,
        "against": judgement.against or "",
        "verdict": judgement.word,
        "exit_code": str(int(judgement.exit_code)),
        "simulated": str(judgement.simulated).lower(),
    }
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=_xml_safe(value))
    for check, kind in zip(checks, kinds, strict=True):
        _testcase(suite, judgement.profile, check, kind)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _testcase(suite: ElementTree.Element, profile: str, check: Check, kind: str | None) -> None:
    name = f"{check.metric} {check.pipeline}".strip()
    room = f"srbench.{profile}.{check.case}"
    case = ElementTree.SubElement(
        suite, "testcase", classname=_xml_safe(room), name=_xml_safe(name)
    )
    message = _xml_safe(check.message)
    if kind == "skipped":
        ElementTree.SubElement(case, kind, message=message)
    elif kind is not None:
        ElementTree.SubElement(case, kind, message=message, type=check.reason_code)
    else:
        ElementTree.SubElement(case, "system-out").text = message


def _kind(check: Check, on_inconclusive: str) -> str | None:
    if check.verdict is Verdict.INCONCLUSIVE and on_inconclusive == "fail":
        return "failure"
    return {
        Verdict.FAIL: "failure",
        Verdict.NO_BASELINE: "failure",
        Verdict.ERROR: "error",
        Verdict.INCONCLUSIVE: "skipped",
        Verdict.SKIPPED: "skipped",
    }.get(check.verdict)


def _xml_safe(text: str) -> str:
    """Drop what XML 1.0 cannot hold, such as control characters of a crashed worker's message."""
    return "".join(c for c in text if c in "\t\n" or _in_xml(ord(c)))


def _in_xml(code: int) -> bool:
    """Production 2 of XML 1.0, "Char", without the control characters."""
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
