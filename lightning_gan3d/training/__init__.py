"""The adversarial loop: one module, its schedules, its record and its run directories."""
