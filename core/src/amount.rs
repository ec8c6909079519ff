//! Amounts of resources, as the Kubernetes API writes them and as the planner counts them.
//!
//! CPU is counted in thousandths of a core, everything else in its own unit: bytes for memory and
//! disk, pieces for pods, GPUs and other extended resources. A fraction is rounded up, as the
//! scheduler does, so that what is planned for is never less than what is asked for.

use std::collections::BTreeMap;
use std::fmt;

/// The resource `cpu`, counted in millicores.
pub const CPU: &str = "cpu";
/// The resource `memory`, in bytes.
pub const MEMORY: &str = "memory";
/// The resource `ephemeral-storage`, in bytes.
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// The resource `pods`: how many pods a node takes.
pub const PODS: &str = "pods";
/// NVIDIA GPUs, whole devices.
pub const NVIDIA_GPU: &str = "nvidia.com/gpu";

/// A text that is no amount of the resource it was given for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource} {found:?} {problem}; write it as {example}")]
pub struct InvalidAmount {
    /// The resource.
    pub resource: String,
    /// What was found.
    pub found: String,
    /// What is wrong with it.
    pub problem: &'static str,
    /// A form that would be right.
    pub example: &'static str,
}

/// Amounts by resource name. A resource that is absent counts as zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resources(BTreeMap<String, i64>);

impl Resources {
    /// Nothing of anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much of `name`: millicores for [`CPU`], else base units.
    pub fn of(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Sets one amount. Zero is kept: a node that says it has none of a resource is not the same as
    /// one that says nothing.
    pub fn set(&mut self, name: impl Into<String>, amount: i64) {
        self.0.insert(name.into(), amount);
    }

    /// The same with one amount set; for literals.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, amount: i64) -> Self {
        self.set(name, amount);
        self
    }

    /// Names and amounts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Whether no resource is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds every amount of `other`, saturating.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes every amount of `other` away; may go below zero.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    /// Raises every amount to at least that of `other`.
    pub fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }

    /// Whether all of this fits into `room`. An amount of zero always fits.
    pub fn fits(&self, room: &Self) -> bool {
        self.0
            .iter()
            .all(|(name, amount)| *amount <= 0 || *amount <= room.of(name))
    }
}

impl FromIterator<(String, i64)> for Resources {
    fn from_iter<T: IntoIterator<Item = (String, i64)>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// What one container asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its requests; where only a limit is given, the limit, as the API server defaults it.
    pub requests: Resources,
    /// Whether it runs beside the main containers or before them.
    pub role: Role,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// A main container.
    #[default]
    Main,
    /// An init container that ends before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: it starts in its turn and keeps running.
    Sidecar,
}

/// What a whole pod asks for, as the kubelet counts it: the greater of what the main containers and
/// all sidecars need together, and what each init container needs beside the sidecars started before
/// it; then pod-level resources override; then overhead is added. `containers` is in manifest order,
/// init containers and sidecars first.
///
/// Source: KEP-753 (sidecars), KEP-2837 (pod-level resources), KEP-688 (overhead).
pub fn pod_requests(
    containers: &[Container],
    pod_level: &Resources,
    overhead: &Resources,
) -> Resources {
    let (mut running, mut sidecars, mut peak) =
        (Resources::new(), Resources::new(), Resources::new());
    for container in containers {
        match container.role {
            Role::Main => running.add(&container.requests),
            Role::Sidecar => {
                sidecars.add(&container.requests);
                peak.raise(&sidecars);
            }
            Role::Init => {
                let mut during = sidecars.clone();
                during.add(&container.requests);
                peak.raise(&during);
            }
        }
    }
    running.add(&sidecars);
    running.raise(&peak);
    for (name, amount) in pod_level.iter() {
        running.set(name, amount);
    }
    running.add(overhead);
    running
}

/// Reads an amount of `resource` in the API's notation: a decimal number, then a suffix (`m`, `k`,
/// `M`, `Ki`, `Mi`, …) or an exponent (`e3`).
///
/// # Errors
/// When it is no number, has an unknown suffix, is negative, or does not fit in 63 bits.
///
/// Source: `k8s.io/apimachinery` resource.Quantity.
pub fn parse(resource: &str, text: &str) -> Result<i64, InvalidAmount> {
    let fail = |problem| InvalidAmount {
        resource: resource.to_owned(),
        found: text.chars().take(40).collect(),
        problem,
        example: if resource == CPU {
            "500m or 2"
        } else {
            "512Mi, 10Gi or 1"
        },
    };
    let body = text.trim();
    let digits = body
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(body.len());
    let (number, suffix) = body.split_at(digits);
    if number.starts_with('-') {
        return Err(fail("is below zero"));
    }
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty())
        || !whole
            .bytes()
            .chain(fraction.bytes())
            .all(|b| b.is_ascii_digit())
    {
        return Err(fail("is not a number"));
    }
    let (base, tens) = scale(suffix).ok_or_else(|| fail("has a suffix that is not known"))?;
    let tens = tens + if resource == CPU { 3 } else { 0 };
    // value = whole.fraction x base x 10^tens, rounded up.
    let fraction = fraction.trim_end_matches('0');
    let mantissa: String = [whole, fraction].concat();
    let mantissa = mantissa.trim_start_matches('0');
    if mantissa.is_empty() {
        return Ok(0);
    }
    let overflow = || fail("is too large");
    if mantissa.len() > 24 {
        return Err(overflow());
    }
    let mantissa: u128 = mantissa.parse().map_err(|_| overflow())?;
    let tens = tens - i32::try_from(fraction.len()).map_err(|_| overflow())?;
    let scaled = mantissa.checked_mul(base).ok_or_else(overflow)?;
    let value = if tens >= 0 {
        10_u128
            .checked_pow(tens.unsigned_abs())
            .and_then(|power| scaled.checked_mul(power))
            .ok_or_else(overflow)?
    } else {
        match 10_u128.checked_pow(tens.unsigned_abs()) {
            Some(power) => scaled.div_ceil(power),
            None => 1,
        }
    };
    i64::try_from(value).map_err(|_| overflow())
}

/// A factor, and a power of ten on top of it.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    let ten = |tens| Some((1, tens));
    let two = |power: u32| Some((1_u128 << power, 0));
    match suffix {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E'])?;
            let tens: i32 = digits.parse().ok()?;
            (-40..=40).contains(&tens).then_some((1, tens))
        }
    }
}

/// Writes an amount of `resource` for a person: cores, binary bytes, pieces.
pub fn display(resource: &str, amount: i64) -> impl fmt::Display {
    let (resource, amount) = (resource.to_owned(), amount);
    fmt::from_fn(move |f| match resource.as_str() {
        CPU if amount % 1000 == 0 => write!(f, "{}", amount / 1000),
        CPU => write!(f, "{amount}m"),
        MEMORY | EPHEMERAL_STORAGE => {
            let gib = amount as f64 / f64::from(1 << 30);
            if gib >= 1.0 {
                write!(f, "{}Gi", (gib * 10.0).round() / 10.0)
            } else {
                write!(f, "{}Mi", amount / (1 << 20))
            }
        }
        _ => write!(f, "{amount}"),
    })
}

#[cfg(test)]
mod tests;
