"""Dialers as plain processes, against real SQL, Redis, HTTP and a simulated network: what holds when they die."""
