import AuditTrail
import FabricProtocol
import GPUFabric
import StrictYAML
package import Vocabulary

/// The nodes and quotas that an operator keeps in a file under `config/`, so that a pool is made again from the file.
///
/// Unknown and repeated keys, addresses that are none, digests that are none and numbers out of range are refused with
/// line and column, and then nothing is changed.
package struct FabricInventory: Equatable {
    package struct Entry: Equatable {
        let node: NodeID
        let address: String
        package let pool: String
        let measurements: [String: Digest]
    }

    package let nodes: [Entry]
    package let quotas: DeviceQuotas

    /// Devices that a quota may allow at once.
    private static let devicesRange = 1...1000
    private static let nodesMax = 1000

    package init(parsing text: String) throws(GatewayError) {
        let root: YAMLValue
        do throws(YAMLFault) { root = try YAMLValue(parsing: Array(text.utf8)) } catch {
            throw Self.fault(error.line, error.column, error.message)
        }
        let keys = try Self.mapping(root, "the inventory", known: ["version", "nodes", "quotas"])
        guard let version = keys["version"], try Self.text(version) == "1" else {
            throw Self.fault(keys["version"] ?? root, "an inventory says 'version: 1'")
        }
        guard let nodes = keys["nodes"] else { throw Self.fault(root, "an inventory lists its 'nodes'") }
        self.nodes = try Self.nodes(nodes)
        quotas = try keys["quotas"].map(Self.quotas) ?? DeviceQuotas()
    }

    private static func nodes(_ value: YAMLValue) throws(GatewayError) -> [Entry] {
        var entries: [Entry] = []
        for (key, value) in try pairs(value, "nodes") {
            guard let node = try? NodeID(try text(key)) else { throw fault(key, "a node has no such name") }
            let keys = try mapping(value, "a node", known: ["address", "pool", "measurements"])
            guard let address = keys["address"], let pool = keys["pool"], let measured = keys["measurements"] else {
                throw fault(key, "a node has an address, a pool and measurements")
            }
            let place = try text(address)
            guard (try? Gateway.parse(address: place)) != nil else {
                throw fault(address, "an address is HOST:PORT or mptcp://HOST:PORT")
            }
            let name = try text(pool)
            guard (try? DatasetID(name)) != nil else { throw fault(pool, "a pool has no such name") }
            var measurements: [String: Digest] = [:]
            for (key, value) in try pairs(measured, "measurements") {
                guard let digest = Digest(hex: try text(value)) else {
                    throw fault(value, "a measurement is a SHA-256 digest in 64 hexadecimal digits")
                }
                measurements[try text(key)] = digest
            }
            guard !measurements.isEmpty else { throw fault(measured, "a node has at least one measurement") }
            entries.append(Entry(node: node, address: place, pool: name, measurements: measurements))
        }
        guard entries.count <= nodesMax else { throw fault(value, "an inventory has at most \(nodesMax) nodes") }
        return entries
    }

    private static func quotas(_ value: YAMLValue) throws(GatewayError) -> DeviceQuotas {
        let keys = try mapping(value, "quotas", known: ["devices", "projects"])
        var quotas = DeviceQuotas()
        quotas.defaultDevices = try keys["devices"].map(devices)
        if let projects = keys["projects"] {
            for (key, value) in try pairs(projects, "projects") { quotas.projects[try text(key)] = try devices(value) }
        }
        return quotas
    }

    private static func devices(_ value: YAMLValue) throws(GatewayError) -> Int {
        guard case .scalar(let text, plain: true) = value.content, let number = Int(text), String(number) == text,
            devicesRange.contains(number)
        else { throw fault(value, "a quota is a number of devices, 1 to \(devicesRange.upperBound)") }
        return number
    }

    // MARK: Reading

    private static func pairs(
        _ value: YAMLValue, _ what: String
    ) throws(GatewayError) -> [(key: YAMLValue, value: YAMLValue)] {
        guard case .mapping(let pairs) = value.content else { throw fault(value, "\(what) is a mapping") }
        return pairs
    }

    private static func mapping(
        _ value: YAMLValue, _ what: String, known: [String]
    ) throws(GatewayError) -> [String: YAMLValue] {
        var keys: [String: YAMLValue] = [:]
        for (key, value) in try pairs(value, what) {
            let name = try text(key)
            guard known.contains(name) else {
                throw fault(key, "\(what) has no key '\(shown(name))'" + suggestion(for: name, among: known))
            }
            keys[name] = value
        }
        return keys
    }

    private static func text(_ value: YAMLValue) throws(GatewayError) -> String {
        guard case .scalar(let text, _) = value.content else { throw fault(value, "a single value is wanted here") }
        return text
    }

    private static func fault(_ value: YAMLValue, _ message: String) -> GatewayError {
        fault(value.line, value.column, message)
    }

    private static func fault(_ line: Int, _ column: Int, _ message: String) -> GatewayError {
        GatewayError(.usage, "inventory \(line):\(column): \(message)")
    }
}

/// What applying an inventory did with each node.
package struct InventoryChange: Sendable {
    package var added: [NodeID] = []
    package var changed: [NodeID] = []
    package var unchanged: [NodeID] = []
    /// Nodes of the pool that the file does not name; they stay as they are.
    package var unnamed: [NodeID] = []
}

extension Gateway {
    /// Makes the pool what a file says: nodes are added or changed, quotas replaced. Every node must have an identity
    /// here; if one has none, nothing is changed.
    package func applyInventory(_ text: String, by actor: PersonID) throws -> InventoryChange {
        try require(actor, anyOf: [.operatorRole])
        let inventory = try FabricInventory(parsing: text)
        for entry in inventory.nodes where !isEnrolled(entry.node) {
            throw GatewayError(
                .notFound, "\(entry.node) has no identity here yet; make it with `sekisho pki node`")
        }
        let present = hasNodes ? try fabric().nodes.map(\.node) : []
        var change = InventoryChange()
        for entry in inventory.nodes {
            let old = present.first { $0.id == entry.node }
            let isSame =
                old.map {
                    $0.address.text == entry.address && $0.pool == entry.pool
                        && $0.policy.allowed == entry.measurements.mapValues { Set([$0]) }
                } ?? false
            if isSame {
                change.unchanged.append(entry.node)
                continue
            }
            let measurements = JSON.object(entry.measurements.mapValues { .string($0.hex) })
            try addNode(
                entry.node, address: entry.address, pool: entry.pool, measurements: measurements.canonicalText,
                by: actor)
            if old == nil { change.added.append(entry.node) } else { change.changed.append(entry.node) }
        }
        if inventory.quotas != deviceQuotas {
            try ledger.record(
                Event(.quotasChanged, .done).with {
                    $0.actor = actor
                    $0.payload = ["quotas": inventory.quotas.json]
                }, in: .gateway, key: ledger.freshKey("quotas"))
        }
        let named = Set(inventory.nodes.map(\.node))
        change.unnamed = present.map(\.id).filter { !named.contains($0) }
        wakeLine()
        return change
    }

    /// The quotas in force: those of the last inventory.
    var deviceQuotas: DeviceQuotas {
        ledger.records(of: .quotasChanged).last?.payload["quotas"].map(DeviceQuotas.init(json:)) ?? DeviceQuotas()
    }
}

extension DeviceQuotas {
    fileprivate var json: JSON {
        [
            "devices": defaultDevices.map { .integer(Int64($0)) } ?? .null,
            "projects": .object(projects.mapValues { .integer(Int64($0)) }),
        ]
    }

    fileprivate init(json: JSON) {
        defaultDevices = json["devices"]?.integerValue.map { Int($0) }
        projects = (json["projects"]?.objectValue ?? [:]).compactMapValues { $0.integerValue.map { Int($0) } }
    }
}
