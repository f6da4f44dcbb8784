@main struct SekishoNode { static func main() {} }
