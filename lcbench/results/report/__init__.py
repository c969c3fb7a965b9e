"""Reports: tables, figures and pages of one or more runs."""
