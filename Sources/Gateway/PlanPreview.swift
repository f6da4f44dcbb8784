package import Vocabulary

import Training
import TrainingPlanner

/// The plan that a specification would get on a graph of given sizes, without a run: for whoever asks before the
/// request whether a device will do. Degrees are taken to be even, so a real graph's plan may differ a little.
package struct PlanPreview: Sendable {
    package struct Sizes: Sendable {
        package var nodes = 0
        /// Both directions of each edge.
        package var edges = 0
        package var features = 0
        package var classes = 0
        /// Predicates, for typed models.
        package var predicates = 1
        package var deviceBytes = 0
        package var hostBytes = 8 << 30
        package var ssdBytes = 64 << 30
        package var linkBytesPerSecond = 1_000_000_000
        package var roundTripMicroseconds = 100

        package init() {}
    }

    package let json: JSON
    package let table: String

    /// - Parameter specification: the YAML text of a model specification.
    package init(specification: String, sizes: Sizes) throws(GatewayError) {
        guard (1...Limits.nodesMax).contains(sizes.nodes), (0...Limits.edgesMax).contains(sizes.edges),
            (1...Limits.featuresMax).contains(sizes.features), (1...Limits.classesMax).contains(sizes.classes),
            (1...Limits.predicatesMax).contains(sizes.predicates), sizes.deviceBytes > 0, sizes.hostBytes >= 0,
            sizes.ssdBytes >= 0, sizes.linkBytesPerSecond > 0, sizes.roundTripMicroseconds >= 0
        else { throw GatewayError(.usage, "a size is out of range") }
        do {
            let specification = try ModelSpec(parsing: specification)
            let image = Self.image(specification, sizes)
            let plan = try Planner.plan(
                model: specification.shape(for: image), image: image,
                budget: Budget(
                    deviceBytes: sizes.deviceBytes, hostBytes: sizes.hostBytes, ssdBytes: sizes.ssdBytes,
                    link: LinkRates(
                        bytesPerSecond: Double(sizes.linkBytesPerSecond),
                        roundTripSeconds: Double(sizes.roundTripMicroseconds) / 1e6)))
            json = plan.json
            table = plan.table
        } catch let error as ModelSpecError {
            throw GatewayError(.usage, error.description)
        } catch let error as PlanError {
            throw GatewayError(.refused, error.publicDescription)
        } catch {
            throw GatewayError(.usage, "the specification cannot be planned")
        }
    }

    /// Sizes as an image has them, with the same number of neighbours for every node.
    private static func image(_ specification: ModelSpec, _ sizes: Sizes) -> ImageShape {
        let loops = specification.model.hasSelfLoops ? sizes.nodes : 0
        let rows = Array(stride(from: 0, to: sizes.nodes, by: ImageShape.tileRows)) + [sizes.nodes]
        func tiles(_ edges: Int, from first: Int) -> [UInt64] {
            rows.map { UInt64(first + Int(Double(edges) * Double($0) / Double(sizes.nodes))) }
        }
        var relations: [ImageShape.Relation] = []
        var edges = sizes.edges + loops
        if specification.model == .rgcn {
            let count = 2 * sizes.predicates
            let each = sizes.edges / count
            relations = (0..<count).map { relation in
                ImageShape.Relation(
                    predicate: "predicate-\(relation / 2)", isInverse: relation % 2 == 1, edges: each,
                    tileEdges: tiles(each, from: relation * each))
            }
            edges = each * count
        }
        return ImageShape(
            nodes: sizes.nodes, edges: edges, features: sizes.features,
            classes: specification.task == .regression ? 1 : sizes.classes, labelled: [0, sizes.nodes, 0, 0],
            tileEdges: tiles(edges, from: 0), relations: relations, recipe: specification.recipe)
    }
}

extension Picture {
    /// Memory by tier over one epoch, as a plan's JSON tells it: a panel for each tier, time from left to right.
    package static func memory(ofPlan plan: JSON) -> Picture {
        let passes = plan["passes"]?.arrayValue ?? []
        func number(_ pass: JSON, _ name: String) -> Double { Double(pass[name]?.integerValue ?? 0) }
        let total = max(passes.reduce(0) { $0 + number($1, "microseconds") }, 1)
        let tiers = [("device", "deviceBytes"), ("host", "hostBytes"), ("SSD", "ssdBytes")]
        let panel = 90.0
        let left = 110.0
        var picture = Picture(
            title: "Memory by tier over one epoch of \(seconds(total / 1e6))", height: panel * Double(tiers.count) + 20)
        let width = picture.width - left - 20
        for (row, (name, member)) in tiers.enumerated() {
            let bottom = Double(row + 1) * panel
            let most = passes.map { number($0, member) }.max() ?? 0
            picture.text(name, x: left - 8, y: bottom - panel / 2, anchor: "end")
            picture.text(bytes(Int(most)), x: left - 8, y: bottom - panel / 2 + 16, anchor: "end", kind: "figure")
            var x = left
            for pass in passes {
                let share = number(pass, "microseconds") / total * width
                let height = most > 0 ? number(pass, member) / most * (panel - 16) : 0
                if height > 0 {
                    let title = pass["title"]?.stringValue ?? ""
                    picture.rectangle(
                        x: x, y: bottom - height, width: share, height: height, kind: "part part\(row)",
                        label: "\(title): \(bytes(Int(number(pass, member))))")
                }
                x += share
            }
            picture.line(x1: left, y1: bottom, x2: left + width, y2: bottom)
        }
        return picture
    }

    /// The same as a file of its own, with its colours.
    package var standalone: String {
        let style = """
            <style>text{font:12px sans-serif;fill:#333}.axis{stroke:#999}.part0{fill:#4477aa}.part1{fill:#ccbb44}\
            .part2{fill:#aa3377}rect{stroke:#fff;stroke-width:.5}</style>
            """
        guard let end = svg.firstRange(of: "</title>")?.upperBound else { return svg }
        return svg[..<end] + style + svg[end...]
    }
}
