"""The template language of pipes: parameters, functions, and rendering with every value bound.

Start with `environment.compile_template`. A compiled template is immutable; each request renders it in its own
thread.
"""
