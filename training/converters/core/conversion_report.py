"""Conversion report: how many examples of each split were kept, repaired or dropped, for which reason, and their ids.

plan and workers ─► repair, drop, note ─► add ─► to_dict ─► conversion.json, README.md
                                             └─► table ─► printed
"""

from collections import Counter
from typing import Any


KINDS = ("repaired", "dropped", "notes")
# Of the printed table; the stored report has them all.
MAX_IDS_SHOWN = 8  # per line
MAX_ID_CHARACTERS = 80
MAX_REASONS_SHOWN = 20  # per kind
MAX_REASONS_LISTED = 5  # in an error


class ConversionReport:
    """Counts examples by split and lists their ids by reason.

    A repair changes an example that is kept; a drop removes an example; a note mentions something about the release
    that changes no example.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
        self.num_values: Counter[str] = Counter()  # reason -> numbers that were changed
        self.read: Counter[str] = Counter()  # split -> examples
        self.kept: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()

    def repair(self, reason: str, example_id: str, num_values: int = 0) -> None:
        """Count a change of an example that is kept.

        Args:
            reason: what was wrong and what was done about it.
            example_id: the example; several repairs in a row for one reason count once.
            num_values: how many of its numbers were changed.
        """
        ids = self.reasons["repaired"].setdefault(reason, [])
        if not ids or ids[-1] != example_id:
            ids.append(example_id)
        if num_values:
            self.num_values[reason] += num_values

    def drop(self, reason: str, example_id: str) -> None:
        """Count an example that is left out."""
        self.reasons["dropped"].setdefault(reason, []).append(example_id)

    def note(self, reason: str, name: str) -> None:
        """Mention something that changes no example; `name` is an id, a file or a split."""
        self.reasons["notes"].setdefault(reason, []).append(name)

    def dropped_for(self, *starts: str) -> tuple[int, str]:
        """Number of examples that were dropped for the reasons that begin like this, and the most frequent of these
        reasons with their counts."""
        counts = {name: len(ids) for name, ids in self.reasons["dropped"].items() if name.startswith(starts)}
        frequent = sorted(counts, key=lambda reason: -counts[reason])[:MAX_REASONS_LISTED]
        shown = [f"{reason}: {counts[reason]}" for reason in frequent]
        return sum(counts.values()), ", ".join(shown) + (", ..." if len(counts) > len(shown) else "")

    def add(self, other: "ConversionReport") -> None:
        """Add another report, such as that of a worker."""
        for kind, reasons in other.reasons.items():
            for reason, ids in reasons.items():
                self.reasons[kind].setdefault(reason, []).extend(ids)
        self.num_values.update(other.num_values)
        self.read.update(other.read)
        self.kept.update(other.kept)
        self.repaired.update(other.repaired)

    def to_dict(self) -> dict[str, Any]:
        """Count by split, and every reason with its count and ids."""
        rows = {}
        for split in self.read:
            rows[split] = {
                "read": self.read[split],
                "kept": self.kept[split],
                "repaired": self.repaired[split],
                "dropped": self.read[split] - self.kept[split],
            }
        stored: dict[str, Any] = {"rows": rows}
        for kind in KINDS:
            stored[kind] = {reason: self._entry(kind, reason) for reason in sorted(self.reasons[kind])}
        return stored

    def _entry(self, kind: str, reason: str) -> dict[str, Any]:
        ids = self.reasons[kind][reason]
        entry: dict[str, Any] = {"count": len(ids)}
        if reason in self.num_values:
            entry["values"] = self.num_values[reason]
        entry["ids"] = ids
        return entry

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ConversionReport":
        """The report that `to_dict` stored."""
        report = cls()
        for split, counts in stored["rows"].items():
            report.read[split] = counts["read"]
            report.kept[split] = counts["kept"]
            report.repaired[split] = counts["repaired"]
        for kind in KINDS:
            for reason, entry in stored[kind].items():
                report.reasons[kind][reason] = list(entry["ids"])
                if "values" in entry:
                    report.num_values[reason] = entry["values"]
        return report

    def table(self) -> str:
        """The report for printing, with the most frequent reasons and a few ids each."""
        stored = self.to_dict()
        lines = [f"{'split':<14}{'read':>8}{'kept':>8}{'repaired':>10}{'dropped':>9}"]
        for split, counts in stored["rows"].items():
            numbers = f"{counts['read']:>8}{counts['kept']:>8}{counts['repaired']:>10}{counts['dropped']:>9}"
            lines.append(f"{split:<14}{numbers}")
        for kind in KINDS:
            if stored[kind]:
                lines.append(kind)
            entries = sorted(stored[kind].items(), key=lambda item: -item[1]["count"])
            shown = entries if len(entries) <= MAX_REASONS_SHOWN else entries[: MAX_REASONS_SHOWN - 1]
            for reason, entry in sorted(shown):
                values = f", {entry['values']} values" if "values" in entry else ""
                ids = ", ".join(map(_shorten_id, entry["ids"][:MAX_IDS_SHOWN]))
                more = ", ..." if entry["count"] > MAX_IDS_SHOWN else ""
                lines.append(f"  {entry['count']:>6}{values}  {reason}: {ids}{more}")
            if len(shown) < len(entries):
                rest = sum(entry["count"] for _, entry in entries[len(shown) :])
                lines.append(f"  {rest:>6}  for {len(entries) - len(shown)} other reasons")
        return "\n".join(lines)


def _shorten_id(name: str) -> str:
    """An id for printing: one line, and only the beginning of a long one."""
    return " ".join(name[:MAX_ID_CHARACTERS].split()) + ("..." if len(name) > MAX_ID_CHARACTERS else "")
