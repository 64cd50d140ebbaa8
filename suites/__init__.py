"""One folder a layer: generic tests over every declared kernel; meta tests the harness itself."""
