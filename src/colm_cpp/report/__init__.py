"""Reports on generated texts: what is deferred, as tables, JSON and a page.

Everything here reads what ``colm evaluate`` and ``colm generate --trace`` have written. No model is loaded, and nothing
here is imported by ``import colm_cpp``.
"""
