"""A judgement as JUnit XML: one testcase a check, read by every CI system."""

from __future__ import annotations

from xml.etree import ElementTree

from srbench.gate.checks import Check, Judgement, Verdict


def junit_xml(judgement: Judgement) -> str:
    """Render the judgement: fail is a failure, an open question skipped, a broken cell an error."""
    checks = judgement.checks
    suite = ElementTree.Element(
        "testsuite",
        name="srbench gate",
        tests=str(len(checks)),
        failures=str(sum(_kind(check) == "failure" for check in checks)),
        errors=str(sum(_kind(check) == "error" for check in checks)),
        skipped=str(sum(_kind(check) == "skipped" for check in checks)),
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "run": judgement.run_id,
        "against": judgement.against or "",
        "verdict": judgement.word,
        "exit_code": str(int(judgement.exit_code)),
    }
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=_xml_safe(value))
    for check in checks:
        _testcase(suite, judgement.profile, check)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _testcase(suite: ElementTree.Element, profile: str, check: Check) -> None:
    name = f"{check.metric} {check.pipeline}".strip()
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"srbench.{profile}.{check.case}", name=_xml_safe(name)
    )
    message = _xml_safe(check.message)
    kind = _kind(check)
    if kind == "skipped":
        ElementTree.SubElement(case, kind, message=message)
    elif kind is not None:
        ElementTree.SubElement(case, kind, message=message, type=check.reason_code)
    else:
        ElementTree.SubElement(case, "system-out").text = message


def _kind(check: Check) -> str | None:
    return {
        Verdict.FAIL: "failure",
        Verdict.NO_BASELINE: "failure",
        Verdict.ERROR: "error",
        Verdict.INCONCLUSIVE: "skipped",
        Verdict.SKIPPED: "skipped",
    }.get(check.verdict)


def _xml_safe(text: str) -> str:
    """Drop what XML 1.0 cannot hold, such as control characters of a crashed worker's message."""
    return "".join(c for c in text if c in "\t\n" or 0x20 <= ord(c) <= 0xD7FF or ord(c) >= 0xE000)
