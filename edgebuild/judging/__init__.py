"""Pure: metrics over outputs, intervals, budgets, comparisons, verdicts, selection."""
