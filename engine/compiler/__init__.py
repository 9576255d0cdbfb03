"""Compiles the project's files into what the server runs: pipes, statements, tables and views.

The compiler accesses no database; the engine's parser and analyser are passed in. It guarantees:

- Each name in a statement is bound for one caller, and tenants' rows are limited to the caller's tenant: `scope`
  decides this, and `compose` checks it a second time while it assembles the statement.
- Functions of the author's SQL are not evaluated on another tenant's values that are stored next to the caller's
  (`encoding`).
- No pipe mixes tenants' rows, or shares them, unless its target's file says so (`targets`, `sharing`, `groups`).
- DDL contains only verified expressions and types that the engine accepts (`definitions`, `refused_definitions`).

Start with `build.build`, which runs the passes over a project in order, and then read `scope.Scope.bind` and
`compose.Composer`. `storage` and `views` describe the tables and views of a build; `dry_run` analyzes templates with
sample values. Which SQL an author may write is decided in `engine/sql`.
"""
