//! Addresses of logos, and the files behind them.

use std::sync::LazyLock;

use reqwest::Url;

use super::{Gate, Host, KEPT, Logo, Network};

static GATE: LazyLock<Gate> = LazyLock::new(|| Gate {
    hosts: vec![
        Host::Exactly("cdn.example.com".to_owned()),
        Host::Below(".shop.example".to_owned()),
    ],
    network: Network::public(),
});

/// An address: what may be asked is the web of a host on the list, on its usual port.
pub fn address(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(url) = Url::parse(text) else { return };
    if GATE.check(&url).is_ok() {
        assert!(["http", "https"].contains(&url.scheme()), "{url}");
        assert!(url.port().is_none(), "{url}");
        let host = url.host_str().expect("it was on the list").trim_end_matches('.');
        assert!(host == "cdn.example.com" || host.ends_with(".shop.example"), "{url}");
        assert!(host.parse::<std::net::IpAddr>().is_err(), "{url}");
    }
}

/// A file: a logo that can be drawn is small, and its pixels are premultiplied, as the canvas has them.
pub fn file(data: &[u8]) {
    let Ok(logo) = Logo::read(data) else { return };
    let pixels = logo.pixels();
    assert!((1..=KEPT[0]).contains(&pixels.width()) && (1..=KEPT[1]).contains(&pixels.height()));
    for pixel in pixels.pixels() {
        assert!(
            pixel.red().max(pixel.green()).max(pixel.blue()) <= pixel.alpha(),
            "{pixel:?}"
        );
    }
    let [width, height] = logo.fit(100.0, 50.0);
    assert!(width <= 100.01 && height <= 50.01, "{width} x {height}");
}
