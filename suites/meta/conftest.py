"""Loads the fixtures that several tests of the harness share."""

from suites.meta.users_project import imported_late, project

__all__ = ["imported_late", "project"]
