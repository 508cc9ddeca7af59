"""What became of every row: kept, repaired or dropped, for which reason, and which rows."""

from collections import Counter
from typing import Any


KINDS = ("repaired", "dropped", "noted")
SHOWN = 8  # ids a line of the printed table; the stored one names them all


class ConversionReport:
    """Counts rows by split and names rows by reason.

    A repair changes a row that stays, or a part of it; a drop takes the row out; a note tells something about the
    release that is no row's fault.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
        self.values: Counter[str] = Counter()  # reason -> single numbers that were changed
        self.read: Counter[str] = Counter()  # split -> rows
        self.kept: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()

    def repair(self, reason: str, name: str, values: int = 0) -> None:
        """A row is kept with a change; `values` counts changed numbers."""
        names = self.reasons["repaired"].setdefault(reason, [])
        if not names or names[-1] != name:
            names.append(name)
        if values:
            self.values[reason] += values

    def drop(self, reason: str, name: str) -> None:
        """A row is left out."""
        self.reasons["dropped"].setdefault(reason, []).append(name)

    def note(self, reason: str, name: str) -> None:
        """Something to know that changes no row."""
        self.reasons["noted"].setdefault(reason, []).append(name)

    def add(self, other: "ConversionReport") -> None:
        """Add what happened elsewhere."""
        for kind, reasons in other.reasons.items():
            for reason, names in reasons.items():
                self.reasons[kind].setdefault(reason, []).extend(names)
        for mine, theirs in zip(self._counters(), other._counters(), strict=True):
            mine.update(theirs)

    def _counters(self) -> tuple[Counter, ...]:
        return self.values, self.read, self.kept, self.mended

    def to_dict(self) -> dict[str, Any]:
        """The table as it is stored, every id named."""
        rows = {
            split: {
                "read": self.read[split],
                "kept": self.kept[split],
                "repaired": self.mended[split],
                "dropped": self.read[split] - self.kept[split],
            }
            for split in self.read
        }
        found: dict[str, Any] = {"rows": rows}
        for kind, reasons in self.reasons.items():
            found[kind] = {
                reason: {"count": len(names), **self._changed(reason), "ids": names}
                for reason, names in sorted(reasons.items())
            }
        return found

    def _changed(self, reason: str) -> dict[str, int]:
        return {"values": self.values[reason]} if reason in self.values else {}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ConversionReport":
        """The report that `to_dict` stored."""
        report = cls()
        for split, counts in stored["rows"].items():
            report.read[split], report.kept[split] = counts["read"], counts["kept"]
            report.mended[split] = counts["repaired"]
        for kind in KINDS:
            for reason, entry in stored[kind].items():
                report.reasons[kind][reason] = list(entry["ids"])
                if "values" in entry:
                    report.values[reason] = entry["values"]
        return report

    def table(self) -> str:
        """The table as it is printed, a few ids a reason."""
        stored = self.to_dict()
        lines = [f"{'split':<14}{'read':>8}{'kept':>8}{'repaired':>10}{'dropped':>9}"]
        for split, counts in stored["rows"].items():
            lines.append(
                f"{split:<14}{counts['read']:>8}{counts['kept']:>8}{counts['repaired']:>10}{counts['dropped']:>9}"
            )
        for kind in KINDS:
            lines += [kind] if stored[kind] else []
            for reason, entry in stored[kind].items():
                changed = f", {entry['values']} values" if "values" in entry else ""
                names = ", ".join(entry["ids"][:SHOWN]) + (", ..." if entry["count"] > SHOWN else "")
                lines.append(f"  {entry['count']:>6}{changed}  {reason}: {names}")
        return "\n".join(lines)
