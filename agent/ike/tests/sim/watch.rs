    /// Requests: one at a time per IKE SA and end, and the same bytes again (invariant I3).
    fn watch_window(&mut self, index: usize, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            return;
        };
        let header = message.header;
        if header.flags.is_response() || header.exchange == ExchangeType::IKE_SA_INIT {
            return;
        }
        let spi_r = header.responder_spi.map_or(0, IkeSpi::value);
        let key = (
            header.initiator_spi.value(),
            spi_r,
            header.flags.sender() == Role::Initiator,
        );
        let number = header.message_id.0;
        if let Some((last, bytes, answered)) = self.requests.get(&key) {
            if *last == number && bytes != datagram {
                self.failure = Some(format!("{index} repeats request {number} with other bytes"));
            }
            if *last != number && !answered {
                self.failure = Some(format!(
                    "{index} sends request {number} while {last} is unanswered"
                ));
            }
            if *last == number {
                return;
            }
        }
        self.requests.insert(key, (number, datagram.to_vec(), false));
    }

    fn note_response(&mut self, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            return;
        };
        let header = message.header;
        let spi_r = header.responder_spi.map_or(0, IkeSpi::value);
        let asked = header.flags.sender() != Role::Initiator;
        if header.flags.is_response()
            && let Some((last, _, answered)) =
                self.requests
                    .get_mut(&(header.initiator_spi.value(), spi_r, asked))
            && *last == header.message_id.0
        {
            *answered = true;
        }
    }

    /// No packet that an installed outbound SA would send lacks its inbound SA at the peer.
    fn check(&mut self) {
        if !self.strict || self.failure.is_some() {
            return;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let peer = &self.nodes[1 - index];
            // What a previous run has left counts while the peer keeps it for that run (decision 20), and only the
            // newest of it is used.
            let kept = self.now <= node.restarted + Duration::from_secs(30);
            let newest = |sa: &KernelSa| {
                !node
                    .kernel
                    .values()
                    .any(|other| !other.inbound && other.child == sa.child && other.serial > sa.serial)
            };
            let counts =
                |sa: &KernelSa| !sa.inbound && (sa.generation == node.generation || (kept && newest(sa)));
            for (name, sa) in node.kernel.iter().filter(|(_, sa)| counts(sa)) {
                match peer.kernel.get(name) {
                    Some(twin) if twin.inbound && twin.key == sa.key => {}
                    Some(_) => {
                        self.failure = Some(format!("keys of {:08x} differ", name.0));
                        return;
                    }
                    None => {
                        self.failure = Some(format!(
                            "{index} sends through {:08x}, which its peer does not have",
                            name.0
                        ));
                        return;
                    }
                }
            }
        }
    }

    /// At rest: one IKE SA, one pair per child, nothing else, the same keys at both ends.
    pub(crate) fn check_rest(&mut self, children: usize) {
        if self.failure.is_some() {
            return;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let counts = node.endpoint.counts();
            let expected = Counts {
                peers: 1,
                ike_sas: 1,
                child_sas: children,
                ..Counts::default()
            };
            if counts != expected {
                self.failure = Some(format!("{index} at rest has {counts:?} instead of {expected:?}"));
                return;
            }
            if node.kernel.len() != 2 * children {
                self.failure = Some(format!(
                    "{index} at rest has {} SAs in the kernel",
                    node.kernel.len()
                ));
                return;
            }
            let covered: BTreeSet<(ChildId, bool)> =
                node.kernel.values().map(|sa| (sa.child, sa.inbound)).collect();
            if covered.len() != 2 * children {
                self.failure = Some(format!("{index} at rest lacks a half of a child"));
                return;
            }
        }
        self.strict = true;
        self.check();
    }

