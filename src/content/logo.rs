//! A store's logo, by the address that its owner typed.
//!
//! A server that fetches what somebody typed can be led into the network that it stands in. So nothing is fetched
//! but from hosts on a list, by name and on the usual ports; and whatever a name resolves to, at every redirect, is
//! refused unless it is an address of the public internet. The connection goes to the very address that was
//! checked. Size, time, redirects and pixels are bounded. Whatever goes wrong, the picture is drawn without a logo.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Cursor,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use image::{ImageFormat, ImageReader, Limits, imageops::FilterType};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use resvg::tiny_skia::{IntSize, Pixmap};
use tokio::sync::Semaphore;

use super::color::Rgb;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

/// From the first packet to the last byte, all redirects included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the file, in bytes. Logos have some ten thousand.
const MOST_BYTES: usize = 1 << 20;
/// Width and height of the file's image: a small file can unpack to a very large one.
const MOST_PIXELS: u32 = 4096;
/// What an image may take decoded, in bytes: four for each of those pixels.
const MOST_MEMORY: u64 = 4 * (MOST_PIXELS as u64).pow(2);
/// Pixels of a JPEG. The decoder has no bound for what it allocates beside the image, which of a progressive one are
/// all coefficients: six bytes and more for each pixel, and they are gone through once for each of its many scans.
const MOST_JPEG_PIXELS: u64 = 8_000_000;
/// Files that are decoded at the same time, whatever the worker's places.
const DECODED_AT_ONCE: usize = 1;
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 3;
/// A logo is kept this large, at most: twice what the designs give it.
const KEPT: [u32; 2] = [480, 160];

/// A logo, ready to be drawn.
#[derive(Debug, Clone)]
pub struct Logo {
    pixels: Arc<Pixmap>,
    tile: Rgb,
}

impl Logo {
    /// Its pixels.
    pub fn pixels(&self) -> &Pixmap {
        &self.pixels
    }

    /// White or nearly black: what the logo is set on, so that it can be seen whatever the picture's colour.
    pub fn tile(&self) -> Rgb {
        self.tile
    }

    /// Width and height when it is made to fit into these, in pixels; its proportions stay.
    pub fn fit(&self, width: f32, height: f32) -> [f32; 2] {
        let (w, h) = (self.pixels.width() as f32, self.pixels.height() as f32);
        let scale = (width / w).min(height / h);
        [w * scale, h * scale]
    }

    /// Reads a PNG or a JPEG.
    pub fn read(file: &[u8]) -> Result<Self, NoLogo> {
        let undrawable = |e: image::ImageError| NoLogo::Image(e.to_string());
        let mut reader = ImageReader::new(Cursor::new(file))
            .with_guessed_format()
            .map_err(|e| NoLogo::Image(e.to_string()))?;
        match reader.format() {
            Some(ImageFormat::Png) => {}
            Some(ImageFormat::Jpeg) => {
                let head = ImageReader::with_format(Cursor::new(file), ImageFormat::Jpeg);
                let (width, height) = head.into_dimensions().map_err(undrawable)?;
                if u64::from(width) * u64::from(height) > MOST_JPEG_PIXELS {
                    return Err(NoLogo::Image(format!("a JPEG of {width} x {height} is too large")));
                }
            }
            _ => return Err(NoLogo::Image("it is neither PNG nor JPEG".to_owned())),
        }
        let mut limits = Limits::no_limits();
        limits.max_image_width = Some(MOST_PIXELS);
        limits.max_image_height = Some(MOST_PIXELS);
        limits.max_alloc = Some(MOST_MEMORY);
        reader.limits(limits);
        let image = reader.decode().map_err(undrawable)?;
        let image = if image.width() > KEPT[0] || image.height() > KEPT[1] {
            image.resize(KEPT[0], KEPT[1], FilterType::CatmullRom)
        } else {
            image
        };
        let mut pixels = image.to_rgba8();
        let tile = tile_for(&pixels);
        for pixel in pixels.pixels_mut() {
            let [r, g, b, a] = pixel.0;
            let [r, g, b] = [r, g, b].map(|c| (u16::from(c) * u16::from(a) / 255) as u8);
            pixel.0 = [r, g, b, a];
        }
        let pixels = IntSize::from_wh(pixels.width(), pixels.height())
            .and_then(|size| Pixmap::from_vec(pixels.into_raw(), size))
            .ok_or_else(|| NoLogo::Image("it has no pixels".to_owned()))?;
        Ok(Self {
            pixels: Arc::new(pixels),
            tile,
        })
    }
}

/// Of the two tiles the one on which what is not transparent stands out.
fn tile_for(pixels: &image::RgbaImage) -> Rgb {
    const DARK: Rgb = Rgb([0x1c, 0x1c, 0x20]);
    let (mut light, mut all) = (0.0, 0.0);
    for pixel in pixels.pixels() {
        let [r, g, b, a] = pixel.0.map(f64::from);
        light += (0.299 * r + 0.587 * g + 0.114 * b) / 255.0 * a;
        all += a;
    }
    if all > 0.0 && light / all > 0.8 {
        DARK
    } else {
        Rgb::WHITE
    }
}

/// Why there is no logo.
#[derive(Debug, thiserror::Error)]
pub enum NoLogo {
    /// It is no URL.
    #[error("logoUrl is no url: {0}")]
    Url(#[from] url::ParseError),
    /// The list does not have it, or the address may not be asked.
    #[error("{0}")]
    NotAllowed(String),
    /// It did not come.
    #[error("it cannot be fetched: {0}")]
    Fetch(String),
    /// The host's answer is none that helps.
    #[error("the host answers {0}")]
    Status(reqwest::StatusCode),
    /// It is too large.
    #[error("it has more than {MOST_BYTES} bytes")]
    TooLarge,
    /// It cannot be decoded.
    #[error("it is no image that can be drawn: {0}")]
    Image(String),
}

/// A host on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// This name alone.
    Exactly(String),
    /// Whatever ends in this, its dot included.
    Below(String),
}

impl Host {
    fn parse(text: &str) -> Result<Self, BadHost> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        // As a browser reads it, so an international name is compared in its ASCII form.
        match url::Host::parse(name) {
            Ok(url::Host::Domain(name)) if !name.contains('*') => Ok(if below {
                Self::Below(format!(".{name}"))
            } else {
                Self::Exactly(name)
            }),
            _ => Err(BadHost(text.to_owned())),
        }
    }

    fn allows(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        match self {
            Self::Exactly(exactly) => name == exactly,
            Self::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
        }
    }
}

/// What is given as a host is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not the name of a host: give one such as cdn.example.com, or *.example.com; no scheme, no port, no address"
)]
pub struct BadHost(String);

/// Which addresses may be asked.
#[derive(Debug, Clone)]
pub struct Network {
    permits: fn(IpAddr) -> bool,
    any_port: bool,
    /// Answered before DNS is asked.
    names: BTreeMap<String, Vec<IpAddr>>,
}

impl Network {
    /// The public internet, on ports 80 and 443.
    pub fn public() -> Self {
        Self {
            permits: is_public,
            any_port: false,
            names: BTreeMap::new(),
        }
    }

    /// For tests, whose servers are on loopback: any port, these addresses, and names that no DNS has.
    pub fn of_test(permits: fn(IpAddr) -> bool, names: BTreeMap<String, Vec<IpAddr>>) -> Self {
        Self {
            permits,
            any_port: true,
            names,
        }
    }
}

/// Whether an address is of the public internet. Of IPv6 only what has been given out as global unicast is, without
/// what carries an IPv4 address inside.
pub fn is_public(address: IpAddr) -> bool {
    /// Address and length of each block that is not (IANA's registry of special purposes, and multicast).
    const NOT_V4: [([u8; 4], u32); 16] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 31, 196, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    const NOT_V6: [(Ipv6Addr, u32); 4] = [
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
        (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    ];
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::from(v4);
            !NOT_V4
                .iter()
                .any(|(block, length)| (bits ^ u32::from_be_bytes(*block)) >> (32 - length) == 0)
        }
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            bits >> 125 == 1
                && !NOT_V6
                    .iter()
                    .any(|(block, length)| (bits ^ u128::from(*block)) >> (128 - length) == 0)
        }
    }
}

/// Fetches logos. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Logos {
    gate: Arc<Gate>,
    client: Client,
    decoding: Arc<Semaphore>,
}

#[derive(Debug)]
struct Gate {
    hosts: Vec<Host>,
    network: Network,
}

impl Logos {
    /// From these hosts, each a name or `*.` and a name; from nowhere when there are none.
    pub fn new(hosts: &[String], network: Network) -> Result<Self, BadHost> {
        let hosts = hosts.iter().filter(|host| !host.is_empty());
        let gate = Arc::new(Gate {
            hosts: hosts.map(|host| Host::parse(host)).collect::<Result<_, _>>()?,
            network,
        });
        let of_redirects = Arc::clone(&gate);
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > MOST_REDIRECTS {
                return attempt.error("too many redirects");
            }
            match of_redirects.check(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(why) => attempt.error(why),
            }
        });
        let client = Client::builder()
            .dns_resolver(Guarded(Arc::clone(&gate)))
            .redirect(redirects)
            .timeout(FETCH_TIMEOUT)
            // A proxy would resolve the name by itself.
            .no_proxy()
            .referer(false)
            .user_agent("content-worker")
            .build()
            .expect("the client needs nothing but a TLS provider, which is installed first");
        Ok(Self {
            gate,
            client,
            decoding: Arc::new(Semaphore::new(DECODED_AT_ONCE)),
        })
    }

    /// The logo, if it may be had and can be drawn; the log says why not.
    pub async fn fetch(&self, url: &str) -> Option<Logo> {
        match self.try_fetch(url).await {
            Ok(logo) => Some(logo),
            Err(why @ NoLogo::NotAllowed(_)) if self.gate.hosts.is_empty() => {
                tracing::debug!(%why, "no logo is drawn");
                None
            }
            Err(why) => {
                let url: String = url.chars().take(200).collect();
                tracing::info!(url, %why, "no logo is drawn");
                None
            }
        }
    }

    /// The logo, or why there is none.
    pub async fn try_fetch(&self, url: &str) -> Result<Logo, NoLogo> {
        let url = Url::parse(url)?;
        self.gate.check(&url)?;
        let mut answer = self.client.get(url).send().await.map_err(|e| failed(&e))?;
        if !answer.status().is_success() {
            return Err(NoLogo::Status(answer.status()));
        }
        let mut file = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| failed(&e))? {
            if file.len() + chunk.len() > MOST_BYTES {
                return Err(NoLogo::TooLarge);
            }
            file.extend_from_slice(&chunk);
        }
        let turn = Arc::clone(&self.decoding).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(move || {
            // Goes on when nobody waits for it any more, and so does its turn.
            let _turn = turn;
            Logo::read(&file)
        })
        .await
        .unwrap_or_else(|panic| Err(NoLogo::Image(panic.to_string())))
    }
}

impl Gate {
    /// Whether a URL may be asked for, as far as it can be seen from the URL.
    fn check(&self, url: &Url) -> Result<(), NoLogo> {
        let refuse = |why: String| Err(NoLogo::NotAllowed(why));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!("the scheme {} is not allowed", url.scheme()));
        }
        let Some(url::Host::Domain(name)) = url.host() else {
            return refuse("an address instead of a host's name is not allowed".to_owned());
        };
        if !self.hosts.iter().any(|host| host.allows(name)) {
            return refuse(format!("the host {name} is not on the list"));
        }
        match url.port() {
            Some(port) if !self.network.any_port => refuse(format!("the port {port} is not allowed")),
            _ => Ok(()),
        }
    }
}

/// Resolves names, and refuses those that lead where nobody may be led.
struct Guarded(Arc<Gate>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let gate = Arc::clone(&self.0);
        Box::pin(async move {
            let name = name.as_str();
            let addresses: Vec<IpAddr> = match gate.network.names.get(name) {
                Some(known) => known.clone(),
                None => tokio::net::lookup_host((name, 0)).await?.map(|a| a.ip()).collect(),
            };
            // One that is private makes the name suspicious as a whole.
            if let Some(refused) = addresses.iter().find(|address| !(gate.network.permits)(**address)) {
                return Err(NoLogo::NotAllowed(format!("the host {name} is at {refused}, which is not public")).into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// The error with all its causes: the first one says no more than that it failed.
fn failed(error: &reqwest::Error) -> NoLogo {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        _ = write!(text, ": {error}");
        cause = error.source();
    }
    NoLogo::Fetch(text)
}

#[cfg(test)]
mod tests;
