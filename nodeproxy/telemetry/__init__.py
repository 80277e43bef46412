"""What happened, told: records become counters, histograms and access-log lines."""
