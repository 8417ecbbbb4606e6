//! The IKEv2 key derivation by the vector for SHA2-256 of NIST's Automated Cryptographic Validation Test System
//! (SP 800-135 §4.1.2), and prf+ by its definition.

use ipsecmesh_ike::crypto::{
    ChildKeymat, ChildSuite, CryptoError, IkeKeys, IkeSuite, Provider, Secret, Skeyseed, prf_plus,
};
use ipsecmesh_ike::wire::{Nonce, Role};
use ipsecmesh_ike::{
    AdditionalKeyExchange, AdditionalKeyExchanges, Encryption, IkeSpi, Kem, KeyExchange, Prf,
};

use super::{PROVIDERS, hex};

const NI: &str = "
    0a58fea9c1d4fee2e74e1aad6fb02dd5f318eb127465a112be8dc3c04d5dba62eae708f9dc1b2362afd6ba4bda3cf5000f4979fbcbadbcfd
    a9291593829c4e905c21db0c2ee15175ce77a8a0dadf25c7f175bc53fd91b636a9b3c50b203de9b9d6dc463dcb4048f101e26498ceaed3af
    bcd931394a7e099392dfff82e5d6fa85c2e8a8ab90ad363a66795dc32798847e405acd87988140f973058917273a6b0bafb962c75e2b1a21
    e79c08beeb82168bf8b4b57f3dce867bf7862a7b8acbc21be838021913daf64340c055ed17aaf7b6e1d0ca33ae890ddbdb83f4e615aad5e3
    bff58c3db70bac81a0dfbabe5391fc62bca4659e22a0741e01d8d06e67d9bb41";
const NR: &str = "
    e4fdfa68df6171d9eaff8b7b5ad31e7c6098d259f3397c9854cbefe7449b0864c1df16ddece8b26567560f8d59182a44c19149c2d0d72606
    a160021ade3d23c7c6936c91a4b6bec37adf38cfc84b851c68dcee06f81306f63abbefc07e231e3058c49437a557df617eac01663593d2a3
    e594699284c0a35eae6931492ccb2a43db72a600a3899205d681d2b76b1280e456339bb10e0c584aecfdae31c77a4c40dbcb345f782ac328
    35d4c220c1e97254ded6a40075dd717b00b69c86a49e801773026536ae02d58a649827f1ba67610ee936dffd11c9d5a9156631916a0a0046
    ec0ba42f56f2a18de83d5d71a985b0cc9eec2c06b3d907ca58454419f374069d";
const SHARED: &str = "9d469de41b4739c7dd01f19aa94f17e48150ae9dbede94832142db19";
const SHARED_NEW: &str = "c2987b0767006c3b9aea491bfed1646a3d7194639492b8d45b23b383";
const SPI_I: u64 = 0xc8de_9311_1750_e409;
const SPI_R: u64 = 0x32d5_1b33_5089_97fa;
const SKEYSEED: &str = "eec13ac67c2e072abb684ab4e7b6ce3e7f400af8b96bed48e113497ed337f8d4";
const KEYS: &str = "
    bc83518f63b762874ac57947cdfae33a8d9724df0b83ee4b6df38c23fc2ad829f4d70b5a68dd1f5a52416f09758638aedf919c09a17c5298
    cdb703bb75b1005cba0109739aaa4efd2fe7534c95ad05e546e4419931270eddcab68ac1589d7fde47f5b9e8d5b614cb24ec3caf515497a9
    e99ee6f1b318ff153b539ef071dcaff9b41945dcb780700d69e5dc888a91de195c52825badfd0ab4c33cec71ab5c2b4badefe5455455ce5d
    8ae91721a2091bcccc1514e69482c9c8da1d9f0f187eedda916393570a8c0a8dfabc26d8ed31e8ea47662515972a22d11d692bc1fac6395a
    ecd82a01ab78daafcd6f3070b1201f158a19331b5d21ceee66fccd2ea37bc07648b9539a52dbf797af53e31a0e8706dd86cf5081ebabd095
    f281d23c222dd3bc5abf06869017ca8f751cafcc85abea6ba88c139d1f32a12f7f486cf57eae5d85551b97f3963616d8f597c70efa98c1e1
    fa369fb77a80b1ec5fe533890672c4551172eab1b7fd68ad08c4d4c69f2a867302065ca730aa6915bc2cfb6d93820977";
/// The beginnings of the keying material of CHILD SAs: as much as a suite takes.
const CHILD: &str = "
    c725012285d56e53244a9baaaf95abfca543708d333a3f3a86ba660e00edd4d489bcd631819fda0413382edd9f53d1ed718e056c2ad91d38
    de90f06cd434de70141d051c021e7ddd";
const CHILD_PFS: &str = "
    140a1f2a3c94318ece6edfa8c63f37d8d45982de8b6cbfe34011150db0253e34de3796d4aa579954a0bbf234794eb6e7ece2a8f91100f550
    7df4ee8e66c7813d4c0ff64d484a3494";
const SKEYSEED_REKEY: &str = "05f796c8df322a7e33283ae5fa2f376d8d5efa0ac3745fc548e430031424c121";

const SUITE: IkeSuite = IkeSuite {
    encryption: Encryption::AesGcm16Key256,
    integrity: None,
    prf: Prf::HmacSha256,
    key_exchange: KeyExchange::X25519,
    additional: AdditionalKeyExchanges::NONE,
};

fn nonces() -> (Nonce, Nonce) {
    (Nonce::new(hex(NI)).unwrap(), Nonce::new(hex(NR)).unwrap())
}

fn seed() -> Vec<u8> {
    [
        hex(NI),
        hex(NR),
        SPI_I.to_be_bytes().to_vec(),
        SPI_R.to_be_bytes().to_vec(),
    ]
    .concat()
}

fn ike_keys(provider: &Provider, skeyseed: Skeyseed) -> IkeKeys {
    let (spi_i, spi_r) = (IkeSpi::new(SPI_I).unwrap(), IkeSpi::new(SPI_R).unwrap());
    skeyseed
        .into_ike_keys(provider, spi_i, spi_r, Role::Initiator)
        .unwrap()
}

/// KEYMAT of a CHILD SA: from the initiator to the responder, then back.
fn child_keymat(provider: &Provider, keys: &IkeKeys, shared: Option<&Secret>) -> Vec<u8> {
    let (nonce_i, nonce_r) = nonces();
    let suite = ChildSuite {
        protocol: ipsecmesh_ike::SaProtocol::Esp,
        encryption: Some(Encryption::AesGcm16Key256),
        integrity: None,
        key_exchange: shared.map(|_| KeyExchange::X25519),
        additional: AdditionalKeyExchanges::NONE,
        esn: true,
    };
    let keymat = ChildKeymat::derive(provider, &keys.d, suite, shared, &[], &nonce_i, &nonce_r).unwrap();
    let keys = keymat.into_keys(Role::Initiator);
    [keys.outbound.0.as_slice(), keys.inbound.0.as_slice()].concat()
}

#[test]
fn prf_plus_makes_the_keys_of_the_ike_sa() {
    for provider in PROVIDERS {
        let key = provider.prf.keyed(Prf::HmacSha256, &hex(SKEYSEED));
        let keys = prf_plus(key.as_ref(), &[&seed()], 384).unwrap();
        assert!(keys.constant_time_eq(&hex(KEYS)), "{}", provider.name);
    }
}

#[test]
fn key_material_of_child_sas() {
    let (nonce_i, nonce_r) = nonces();
    for provider in PROVIDERS {
        let shared = Secret::from(hex(SHARED).as_slice());
        let keys = ike_keys(
            provider,
            Skeyseed::initial(provider, SUITE, &shared, &nonce_i, &nonce_r),
        );
        assert_eq!(
            child_keymat(provider, &keys, None),
            hex(CHILD),
            "{}",
            provider.name
        );
        let shared_new = Secret::from(hex(SHARED_NEW).as_slice());
        assert_eq!(
            child_keymat(provider, &keys, Some(&shared_new)),
            hex(CHILD_PFS),
            "{}",
            provider.name
        );
    }
}

#[test]
fn r8_a_rekeyed_ike_sa_has_its_keys_from_the_old_sk_d_and_the_new_nonces_and_spis() {
    let (nonce_i, nonce_r) = nonces();
    for provider in PROVIDERS {
        let shared = Secret::from(hex(SHARED).as_slice());
        let old = ike_keys(
            provider,
            Skeyseed::initial(provider, SUITE, &shared, &nonce_i, &nonce_r),
        );
        let shared_new = Secret::from(hex(SHARED_NEW).as_slice());
        let new = Skeyseed::rekey(provider, &old.d, SUITE, (&shared_new, &[]), &nonce_i, &nonce_r);
        let new = ike_keys(provider, new);

        let skeyseed = provider.prf.keyed(Prf::HmacSha256, &hex(SKEYSEED_REKEY));
        let sk_d = prf_plus(skeyseed.as_ref(), &[&seed()], 32).unwrap();
        let sk_d = provider.prf.keyed(Prf::HmacSha256, sk_d.expose());
        let keymat = prf_plus(sk_d.as_ref(), &[&hex(NI), &hex(NR)], 72).unwrap();
        assert_eq!(
            child_keymat(provider, &new, None),
            keymat.expose(),
            "{}",
            provider.name
        );
    }
}

#[test]
fn prf_plus_is_what_its_definition_says() {
    for provider in PROVIDERS {
        for prf in [Prf::HmacSha256, Prf::HmacSha384] {
            let key = provider.prf.keyed(prf, b"key");
            let t1 = key.apply(&[b"seed", &[1]]);
            let t2 = key.apply(&[t1.expose(), b"seed", &[2]]);
            let expected = [t1.expose(), t2.expose()].concat();
            for length in [
                0,
                1,
                prf.output_length(),
                prf.output_length() + 1,
                2 * prf.output_length(),
            ] {
                let output = prf_plus(key.as_ref(), &[b"se", b"ed"], length).unwrap();
                assert_eq!(output.expose(), &expected[..length]);
            }
        }
    }
}

#[test]
fn prf_plus_ends_after_255_blocks() {
    let key = PROVIDERS[0].prf.keyed(Prf::HmacSha256, b"key");
    assert_eq!(
        prf_plus(key.as_ref(), &[b"seed"], 255 * 32)
            .unwrap()
            .expose()
            .len(),
        255 * 32
    );
    assert_eq!(
        prf_plus(key.as_ref(), &[b"seed"], 255 * 32 + 1).unwrap_err(),
        CryptoError::InvalidLength
    );
}

/// RFC 9370 §2.2.4: `SK(0) | Ni | Nr | SK(1) | SK(2)`, for KEYMAT under prf+ and for SKEYSEED under the PRF.
#[test]
fn additional_secrets_follow_the_nonces() {
    let (nonce_i, nonce_r) = nonces();
    let (first, second): (&[u8], &[u8]) = (b"the secret of ML-KEM", b"another of a curve");
    let input = [hex(SHARED_NEW), hex(NI), hex(NR), first.to_vec(), second.to_vec()].concat();
    let additional = AdditionalKeyExchanges::new(&[
        AdditionalKeyExchange::Kem(Kem::MlKem768),
        AdditionalKeyExchange::Method(KeyExchange::Ecp384),
    ]);
    for provider in PROVIDERS {
        let shared = Secret::from(hex(SHARED).as_slice());
        let old = ike_keys(
            provider,
            Skeyseed::initial(provider, SUITE, &shared, &nonce_i, &nonce_r),
        );
        let key = provider.prf.keyed(Prf::HmacSha256, &hex(SKEYSEED));
        let sk_d = prf_plus(key.as_ref(), &[&seed()], 32).unwrap();
        let sk_d = provider.prf.keyed(Prf::HmacSha256, sk_d.expose());
        let shared = Secret::from(hex(SHARED_NEW).as_slice());
        let more = [first, second].map(Secret::from);

        let suite = ChildSuite {
            protocol: ipsecmesh_ike::SaProtocol::Esp,
            encryption: Some(Encryption::AesGcm16Key256),
            integrity: None,
            key_exchange: Some(KeyExchange::X25519),
            additional: additional.unwrap(),
            esn: true,
        };
        let derive = |more: &[Secret]| {
            ChildKeymat::derive(provider, &old.d, suite, Some(&shared), more, &nonce_i, &nonce_r)
        };
        let keys = derive(&more).unwrap().into_keys(Role::Initiator);
        let keys = [keys.outbound.0.as_slice(), keys.inbound.0.as_slice()].concat();
        assert_eq!(
            keys,
            prf_plus(sk_d.as_ref(), &[&input], 72).unwrap().expose(),
            "{}",
            provider.name
        );
        // A secret that is missing is no shorter input.
        assert!(derive(&more[..1]).is_err());

        let new = Skeyseed::rekey(provider, &old.d, SUITE, (&shared, &more), &nonce_i, &nonce_r);
        let new = ike_keys(provider, new);
        let skeyseed = sk_d.apply(&[&input]);
        let key = provider.prf.keyed(Prf::HmacSha256, skeyseed.expose());
        let sk_d = prf_plus(key.as_ref(), &[&seed()], 32).unwrap();
        let sk_d = provider.prf.keyed(Prf::HmacSha256, sk_d.expose());
        let keymat = prf_plus(sk_d.as_ref(), &[&hex(NI), &hex(NR)], 72).unwrap();
        assert_eq!(
            child_keymat(provider, &new, None),
            keymat.expose(),
            "{}",
            provider.name
        );
    }
}
