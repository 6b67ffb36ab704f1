"""What serving costs as a cluster grows: processor time and bytes of an edit, and what a thousand GPUs would take."""
