//! ML-KEM (FIPS 203). The library draws from its own generator.

use aws_lc_rs::kem::{
    Algorithm, AlgorithmId, Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_512, ML_KEM_768,
    ML_KEM_1024,
};
use ipsecmesh_ike::Kem;
use ipsecmesh_ike::crypto::{CryptoError, Decapsulator, KemBackend, Secret, SecureRandom};

pub(super) struct MlKem;

fn algorithm(kem: Kem) -> &'static Algorithm<AlgorithmId> {
    match kem {
        Kem::MlKem512 => &ML_KEM_512,
        Kem::MlKem768 => &ML_KEM_768,
        Kem::MlKem1024 => &ML_KEM_1024,
    }
}

impl KemBackend for MlKem {
    fn has(&self, _: Kem) -> bool {
        true
    }

    fn generate(&self, kem: Kem, _: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError> {
        let key = DecapsulationKey::generate(algorithm(kem)).map_err(|_| CryptoError::Random)?;
        let public = key
            .encapsulation_key()
            .and_then(|public| Ok(public.key_bytes()?.as_ref().to_vec()))
            .map_err(|_| CryptoError::Random)?;
        Ok(Box::new(Active { kem, key, public }))
    }

    fn encapsulate(
        &self,
        kem: Kem,
        public_key: &[u8],
        _: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        let invalid = |()| CryptoError::InvalidPublicValue;
        let key = EncapsulationKey::new(algorithm(kem), public_key).map_err(|_| invalid(()))?;
        let (ciphertext, shared) = key.encapsulate().map_err(|_| invalid(()))?;
        Ok((ciphertext.as_ref().to_vec(), Secret::from(shared.as_ref())))
    }
}

struct Active {
    kem: Kem,
    key: DecapsulationKey<AlgorithmId>,
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
        let shared = self.key.decapsulate(Ciphertext::from(ciphertext));
        let shared = shared.map_err(|_| CryptoError::InvalidPublicValue)?;
        Ok(Secret::from(shared.as_ref()))
    }
}
