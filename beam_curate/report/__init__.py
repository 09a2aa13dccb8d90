"""The report of a finished run, `report.html`: see `writing.write_report`."""
