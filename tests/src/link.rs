//! Links with a rate, a delay and a cap per connection.
