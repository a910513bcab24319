"""Did the model really become better? Win rates with intervals, alarms for reward hacking, the report."""
