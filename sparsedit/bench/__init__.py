"""Whole suites: every edit in several ways and under several configurations, to the end or on from where it stopped."""
