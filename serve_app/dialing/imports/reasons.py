"""Why rows are not taken, and what is worth knowing of those that are: stable codes, and what they mean to people."""

from __future__ import annotations

from serve_app.dialing.imports.phone import REASONS as NUMBER_REASONS

REASONS = {
    **NUMBER_REASONS,
    "row_unreadable": "the row is no valid CSV, most often for a quotation mark that is never closed",
    "row_too_large": "the row is larger than an import takes",
    "too_many_cells": "the row has more cells than the header: a delimiter inside a cell that is not quoted?",
    "custom_fields_too_large": "the columns without a field are larger than a lead can keep: leave some out",
    "value_too_long": "the value is longer than its field takes",
    "priority_invalid": "a priority is a whole number from 1 to 10, the highest",
    "high_value_invalid": "yes or no is expected",
    "tags_invalid": "at most 20 tags of at most 50 characters each, with commas between them",
    "time_zone_unknown": "a time zone is an IANA name such as America/New_York, not an abbreviation or an offset",
    "region_unknown": "a state or province is told by name or code, such as California, CA or US-CA",
    "country_unknown": "a country is told by two letters (ISO 3166-1), such as US",
    "consent_invalid": "consent is express, written or transactional; yes and no are read as express and none",
    "consent_at_invalid": "the time of a consent is a date such as 2026-01-31, and not in the future",
    "scrubbed_at_invalid": "the time of the comparison with a list is a date such as 2026-01-31, and not in the future",
    "duplicate_in_file": "an earlier row of the file has the same number",
    "duplicate_existing": "the number was there before this import",
}
"""Every code of a row that is not taken. A blank row has none: it is only counted."""

NOTES = {
    "email_not_kept": "the e-mail address is none; the lead was taken without it",
    "region_not_kept": "outside the USA and Canada a region is kept as an ISO 3166-2 code only, such as DE-BY",
    "consent_without_date": "a consent without its date proves nothing and was not recorded",
    "without_consent": "leads for which this file tells no consent",
    "on_do_not_call_list": "leads whose number is on a do-not-call list: the rules keep them from being called",
}
"""What is counted of rows that are taken."""
