"""The executor and the store: what makes a build resumable and never loses anything."""
