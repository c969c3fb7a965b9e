"""From records to tables, figures, pages and verdicts; no model, no torch."""
