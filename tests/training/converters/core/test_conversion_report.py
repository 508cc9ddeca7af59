"""The conversion report: stored with all ids, printed with a few."""

from training.converters.core.conversion_report import ConversionReport


def test_report_is_stored_in_full_and_printed_abridged():
    report = ConversionReport()
    report.read["train"] = 20
    report.kept["train"] = 19
    report.repaired["train"] = 12
    for number in range(12):
        report.repair("bent", f"r{number}", num_values=2)
        report.repair("bent", f"r{number}", num_values=1)
    report.drop("gone", "x")
    report.note("odd", "y")
    stored = report.to_dict()
    assert stored["rows"] == {"train": {"read": 20, "kept": 19, "repaired": 12, "dropped": 1}}
    assert stored["repaired"] == {"bent": {"count": 12, "values": 36, "ids": [f"r{n}" for n in range(12)]}}
    assert stored["dropped"] == {"gone": {"count": 1, "ids": ["x"]}}
    again = ConversionReport.from_dict(stored)
    assert again.to_dict() == stored
    again.add(report)
    assert again.to_dict()["repaired"]["bent"]["values"] == 72
    table = report.table()
    assert "r7" in table and "r8" not in table and "36 values  bent: r0, r1" in table
    assert table.splitlines()[1].split() == ["train", "20", "19", "12", "1"]


def test_printed_report_is_short_whatever_the_release_holds():
    report = ConversionReport()
    for number in range(500):
        report.drop(f"unknown label {number}", f"r{number}")
    report.drop("unknown label 7", "s")
    report.note("odd", "two\nlines " + "x" * 5000)
    table = report.table()
    assert len(table.splitlines()) == 24 and len(table) < 3000
    assert "       2  unknown label 7: r7, s" in table
    assert "     481  for 481 other reasons" in table
    assert "two lines xxx" in table
    assert len(report.to_dict()["dropped"]) == 500
