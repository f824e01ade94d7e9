//! The coordinator: who is connected, who announced what, and the requests it makes by itself.
