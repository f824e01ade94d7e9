//! The command line, and the shape of a link that it describes.

use std::time::Duration;

use clap::Parser;

use crate::direction::Shape;

/// The smallest default queue in bytes: a burst of some forty full packets always fits.
const QUEUE_MIN_BYTES: u64 = 64_000;

/// Joins two network namespaces by an emulated wide-area network until SIGTERM or SIGINT.
///
/// Needs root, /dev/net/tun and iproute2. Prints one line that begins with "ready" when both
/// namespaces can be used, and what was carried at the end.
#[derive(Debug, Parser)]
#[command(name = "shoal-wan", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// First part of the namespaces' names: NAMEA and NAMEB.
    #[arg(long, default_value = "wan", value_parser = parse_name)]
    pub(crate) name: String,
    /// Delay of each direction in milliseconds: half of the round trip.
    #[arg(long, default_value_t = 25.0, value_parser = parse_amount)]
    pub(crate) delay_ms: f64,
    /// Rate of each direction in Mbit/s; 0 for no cap.
    #[arg(long, default_value_t = 200.0, value_parser = parse_amount)]
    pub(crate) rate_mbit: f64,
    /// Queue before the cap in units of 1,000 bytes; what does not fit is dropped. Default: what
    /// the link carries in one round trip.
    #[arg(long)]
    queue_kb: Option<u32>,
    /// Independent loss of each direction, in per cent.
    #[arg(long, default_value_t = 0.0, value_parser = parse_per_cent)]
    pub(crate) loss: f64,
    /// Additional delay, uniform from 0 to this, in milliseconds. The order is kept.
    #[arg(long, default_value_t = 0.0, value_parser = parse_amount)]
    jitter_ms: f64,
    /// Packet size of the devices in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=65_535))]
    pub(crate) mtu: u16,
    /// Decides which packets are lost: the same packets with the same seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Arguments {
    /// What each of the two directions does to packets.
    pub(crate) fn shape(&self) -> Shape {
        let bytes_per_second = self.rate_mbit * 1e6 / 8.0;
        let delay = Duration::from_secs_f64(self.delay_ms / 1e3);
        let round_trip_bytes = (bytes_per_second * delay.as_secs_f64() * 2.0) as u64;
        let queue_bytes = match self.queue_kb {
            Some(kb) => u64::from(kb) * 1000,
            None => round_trip_bytes.max(QUEUE_MIN_BYTES),
        };
        Shape {
            delay,
            jitter: Duration::from_secs_f64(self.jitter_ms / 1e3),
            bytes_per_second: (bytes_per_second > 0.0).then_some(bytes_per_second),
            queue_bytes,
            loss: self.loss / 100.0,
        }
    }
}

fn parse_amount(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(amount) if (0.0..=1e6).contains(&amount) => Ok(amount),
        _ => Err("a number from 0 to 1000000 is needed".to_owned()),
    }
}

fn parse_per_cent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=100.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 100 is needed".to_owned()),
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if text.is_empty() || text.starts_with('-') || text.len() > 64 || !text.bytes().all(is_plain) {
        return Err("letters, digits and hyphens are allowed, at most 64".to_owned());
    }
    Ok(text.to_owned())
}
