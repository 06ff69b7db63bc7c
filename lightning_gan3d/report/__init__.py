"""The comparison: what runs measured, as a page, tables and plots."""
