"""Curate image datasets with Apache Beam."""
