//! Cookies (RFC 7296 §2.6): proof that an initiator receives at its address, without any state for it here.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::Prf;
use crate::crypto::{CryptoError, KeyedPrf, Provider, constant_time_eq};
use crate::time::Instant;
use crate::types::IkeSpi;

/// A secret makes cookies for this long, and checks them for as long again.
const ROTATION: Duration = Duration::from_mins(1);

/// The secrets of the present and of the last period.
#[derive(Debug, Default)]
pub(crate) struct CookieJar {
    secrets: Vec<Period>,
    next_number: u8,
}

struct Period {
    number: u8,
    since: Instant,
    /// Keyed once: a flood of requests costs one MAC each.
    mac: Box<dyn KeyedPrf>,
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Period({})", self.number)
    }
}

impl CookieJar {
    /// The cookie for one initiator: the period's number, then a MAC over nonce, address and SPI.
    pub(crate) fn bake(
        &mut self,
        provider: &Provider,
        now: Instant,
        source: IpAddr,
        spi: IkeSpi,
        nonce: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        self.rotate(provider, now)?;
        let period = self.secrets.last().ok_or(CryptoError::Random)?;
        Ok(period.cookie(source, spi, nonce))
    }

    /// Whether we made `cookie` for this initiator within the last two periods.
    pub(crate) fn accepts(
        &mut self,
        provider: &Provider,
        now: Instant,
        source: IpAddr,
        spi: IkeSpi,
        nonce: &[u8],
        cookie: &[u8],
    ) -> bool {
        if self.rotate(provider, now).is_err() {
            return false;
        }
        self.secrets
            .iter()
            .filter(|period| cookie.first() == Some(&period.number))
            .any(|period| constant_time_eq(&period.cookie(source, spi, nonce), cookie))
    }

    /// Rotation happens on use: an engine that asks for no cookies has nothing to do.
    fn rotate(&mut self, provider: &Provider, now: Instant) -> Result<(), CryptoError> {
        self.secrets
            .retain(|period| now.saturating_since(period.since) < 2 * ROTATION);
        let stale = |period: &Period| now.saturating_since(period.since) >= ROTATION;
        if self.secrets.last().is_none_or(stale) {
            let mut secret = Zeroizing::new([0; 32]);
            provider.random.fill(secret.as_mut_slice())?;
            self.secrets.push(Period {
                number: self.next_number,
                since: now,
                mac: provider.prf.keyed(Prf::HmacSha256, secret.as_slice()),
            });
            self.next_number = self.next_number.wrapping_add(1);
        }
        Ok(())
    }
}

impl Period {
    fn cookie(&self, source: IpAddr, spi: IkeSpi, nonce: &[u8]) -> Vec<u8> {
        let spi = spi.value().to_be_bytes();
        let mac = match source {
            IpAddr::V4(address) => self.mac.apply(&[nonce, &address.octets(), &spi]),
            IpAddr::V6(address) => self.mac.apply(&[nonce, &address.octets(), &spi]),
        };
        [&[self.number], mac.expose()].concat()
    }
}
