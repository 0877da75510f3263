"""Programs in other interpreters: the worker protocol, a helper that speaks it, adapters."""
