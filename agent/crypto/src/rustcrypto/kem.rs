//! ML-KEM (FIPS 203).

use ipsecmesh_ike::Kem;
use ipsecmesh_ike::crypto::{CryptoError, Decapsulator, KemBackend, Secret, SecureRandom};
use ml_kem::array::Array;
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{DecapsulationKey, EncapsulationKey, MlKem512, MlKem768, MlKem1024, Seed};
use zeroize::Zeroizing;

pub(super) struct MlKem;

/// The same for every parameter set; they have no common bound that is worth writing down.
macro_rules! of {
    ($kem:expr, $set:ident => $body:expr) => {
        match $kem {
            Kem::MlKem512 => {
                type $set = MlKem512;
                $body
            }
            Kem::MlKem768 => {
                type $set = MlKem768;
                $body
            }
            Kem::MlKem1024 => {
                type $set = MlKem1024;
                $body
            }
        }
    };
}

impl KemBackend for MlKem {
    fn has(&self, _: Kem) -> bool {
        true
    }

    fn generate(&self, kem: Kem, random: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError> {
        let mut seed = Zeroizing::new(Seed::default());
        random.fill(&mut seed)?;
        let public = of!(kem, Set => {
            let key = DecapsulationKey::<Set>::from_seed(*seed);
            key.encapsulation_key().to_bytes().to_vec()
        });
        Ok(Box::new(Active { kem, seed, public }))
    }

    fn encapsulate(
        &self,
        kem: Kem,
        public_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        let mut message = Zeroizing::new(Array::default());
        random.fill(message.as_mut_slice())?;
        of!(kem, Set => {
            let key = public_key.try_into().map_err(|_| CryptoError::InvalidPublicValue)?;
            let key = EncapsulationKey::<Set>::new(key).map_err(|_| CryptoError::InvalidPublicValue)?;
            let (ciphertext, shared) = key.encapsulate_deterministic(&message);
            let shared = Zeroizing::new(shared);
            Ok((ciphertext.to_vec(), Secret::from(shared.as_slice())))
        })
    }
}

/// The private key is its seed: 64 bytes, expanded again when it is used (FIPS 203 §3.3).
struct Active {
    kem: Kem,
    seed: Zeroizing<Seed>,
    public: Vec<u8>,
}

impl Decapsulator for Active {
    fn kem(&self) -> Kem {
        self.kem
    }

    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, CryptoError> {
        of!(self.kem, Set => {
            let ciphertext = ciphertext.try_into().map_err(|_| CryptoError::InvalidPublicValue)?;
            let shared = Zeroizing::new(DecapsulationKey::<Set>::from_seed(*self.seed).decapsulate(ciphertext));
            Ok(Secret::from(shared.as_slice()))
        })
    }
}
