"""Limits that no system can pass: policies that know the whole run, exact searches."""
