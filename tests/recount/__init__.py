"""An independent recount of what the folds must hold, written from docs/specs/state.md with sorting and dictionaries.

`program` the views it counts; `world` runs the real folds in memory; `expected` counts from the list of records alone;
`decoded` reads the stored fields of the folds into the same plain values; `scenes` makes events.
"""
