"""Attendance: the streams participants hold open, what goes down them and what comes up."""
