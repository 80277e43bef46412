"""Who is out there: model, catalog, back ends. Imports nothing else of ours."""
