//! HMAC: RFC 4231. Hashes: FIPS 180-4. And provider against provider.

use ipsecmesh_ike::Prf;
use proptest::prelude::*;

use super::{PROVIDERS, hex};

#[test]
fn hmac_vectors_of_rfc_4231() {
    let long: &[u8] = b"Test Using Larger Than Block-Size Key - Hash Key First";
    let cases: [(&[u8], &[u8], &str, &str); 3] = [
        (
            &[0x0b; 20],
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c
             faea9ea9076ede7f4af152e8b2fa9cb6",
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e
             8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            &[0xaa; 131],
            long,
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6
             0c2ef6ab4030fe8296248df163f44952",
        ),
    ];
    for provider in PROVIDERS {
        for (key, data, sha256, sha384) in cases {
            let mac = provider.prf.keyed(Prf::HmacSha256, key).apply(&[data]);
            assert!(mac.constant_time_eq(&hex(sha256)), "{}", provider.name);
            let mac = provider.prf.keyed(Prf::HmacSha384, key).apply(&[data]);
            assert!(mac.constant_time_eq(&hex(sha384)), "{}", provider.name);
        }
    }
}

#[test]
fn hashes_of_fips_180_4() {
    for provider in PROVIDERS {
        let sha1 = provider.hash.sha1(&[b"a", b"", b"bc"]);
        assert_eq!(sha1.to_vec(), hex("a9993e364706816aba3e25717850c26c9cd0d89d"));
        let sha256 = provider.hash.sha256(&[b"ab", b"c"]);
        assert_eq!(
            sha256.to_vec(),
            hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }
}

proptest! {
    #[test]
    fn both_providers_agree_however_the_input_is_cut(
        key in prop::collection::vec(any::<u8>(), 0..200),
        data in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let (front, back) = data.split_at(cut.index(data.len() + 1));
        for prf in [Prf::HmacSha256, Prf::HmacSha384] {
            let [a, b] = PROVIDERS.map(|provider| provider.prf.keyed(prf, &key));
            let mac = a.apply(&[front, back]);
            prop_assert_eq!(mac.expose().len(), prf.output_length());
            prop_assert!(mac.constant_time_eq(b.apply(&[&data]).expose()));
            // The key can be used again.
            prop_assert!(mac.constant_time_eq(a.apply(&[&data]).expose()));
        }
        let [a, b] = PROVIDERS.map(|provider| provider.hash);
        prop_assert_eq!(a.sha1(&[front, back]), b.sha1(&[&data]));
        prop_assert_eq!(a.sha256(&[front, back]), b.sha256(&[&data]));
    }
}
