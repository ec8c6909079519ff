//! The `gcp` provider keeps every provider's promises, and GKE's own habits do it no harm.

use headstart_fake_clouds::gcp::Google;

headstart_fake_clouds::conformance!(Google::start().unwrap());
