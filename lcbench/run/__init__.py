"""From a plan to records: requests, plan, batches, runner, measures."""
